"""Everything of one competition: its wire, the kernel, the bundle, and rehearsals."""
