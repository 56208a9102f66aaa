"""What products are judged by: rules, how they judge, and what failed."""
