package policyfile

// Settle is how old a change is that every later one can be told from.
const Settle = settle
