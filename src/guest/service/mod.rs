//! Who serves faults: the faulting thread, threads of ours, or a loop of the embedder.
