//! Helpers of the models in `tests/`.
