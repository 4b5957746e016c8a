//! Arrow Flight and Flight SQL, one file per call.
