"""What a job is, and what runs inside its box."""
