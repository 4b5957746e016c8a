//! Listeners: sockets, TLS, and the services behind them.
