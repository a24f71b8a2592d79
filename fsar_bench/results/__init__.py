"""Results: records, predictions and costs as files. Imports no torch."""
