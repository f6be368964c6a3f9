//! farcc's own protobuf messages.
