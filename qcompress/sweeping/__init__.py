"""One network at several shares of a budget: what each costs and loses, which are on the Pareto front, which one to take."""
