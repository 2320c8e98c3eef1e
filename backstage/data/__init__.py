"""The data sets: found, verified, downloaded, drawn, and made into batches."""
