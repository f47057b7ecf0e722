"""The processes of the lab: standard library only, each a module of its own, told what to do on stdin."""
