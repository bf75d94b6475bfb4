"""What people look at: summary, environment, error atlas, tables, pictures."""
