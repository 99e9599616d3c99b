"""Reports: what a job returned, as one self-contained page of HTML. They read pictures and figures and compute nothing."""
