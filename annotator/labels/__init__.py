"""What people said of the pairs. This room owns the tables votes and annotators."""
