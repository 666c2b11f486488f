//! What a VM is charged, who leaves when a limit is reached, and who decides it.
