//! Measuring: samples and statistics, the machine, its read bandwidth.
