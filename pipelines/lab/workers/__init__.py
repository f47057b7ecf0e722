"""The processes of the lab: standard library only, started by path, told what to do on stdin."""
