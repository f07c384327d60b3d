"""What a person types: spyderd and spyderctl."""
