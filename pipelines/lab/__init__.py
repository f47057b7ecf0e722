"""Real faults in network namespaces, recorded and labelled."""
