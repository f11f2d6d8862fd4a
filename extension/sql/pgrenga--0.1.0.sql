-- pgrenga 0.1.0: the SQL side. Everything here is this node's own: nothing in
-- schema pgrenga is ever replicated.
\echo Use "CREATE EXTENSION pgrenga" to load this file. \quit
