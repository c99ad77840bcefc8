"""What runs between the fork and a job's first line: the box of one attempt. Standard library only."""
