"""One file per study; see ``expertstream.reproduce`` for how to add one."""
