//! Questions to a server's catalogs, with typed answers.
