//! Each mutation is found by the simulation, has its points in the sources, and is not in the product.

mod points;
mod product;
mod simulation;
