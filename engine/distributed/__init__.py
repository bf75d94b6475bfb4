"""One training over several processes: who they are, what each computes, how it is added up."""
