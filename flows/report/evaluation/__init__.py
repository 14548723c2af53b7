"""What the report says of the evaluations: scores with their intervals, how they were measured, each single answer."""
