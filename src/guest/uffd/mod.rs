//! A thin layer over userfaultfd: descriptors, requests, events.
