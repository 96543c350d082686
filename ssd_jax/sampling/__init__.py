"""From noise to images: solvers, plans, and the programs that run them."""
