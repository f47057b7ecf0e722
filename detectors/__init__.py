"""Features, model and policy to alerts, incidents and causes."""
