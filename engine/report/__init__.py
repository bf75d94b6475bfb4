"""What people look at: summary, error atlas, tables, pictures."""
