"""Analysis of stored traces: premises judged against gold, chains, arms. Needs no GPU, engine or workflow library."""
