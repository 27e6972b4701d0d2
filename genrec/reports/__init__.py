"""What people read: the console, the HTML report and the model card."""
