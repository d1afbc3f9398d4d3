"""Where training pairs come from: one module a source. Each makes a pair from a random generator and a difficulty."""
