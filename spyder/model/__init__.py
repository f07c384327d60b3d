"""The words of the project: host names, records, outcomes, errors. Pure, no I/O."""
