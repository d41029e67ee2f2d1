"""From source runs to corrections: algorithms, arrays in, results with uncertainties out."""
