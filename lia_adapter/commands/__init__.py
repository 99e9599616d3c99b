"""The work behind the commands, as Python calls: a LIA and many images."""
