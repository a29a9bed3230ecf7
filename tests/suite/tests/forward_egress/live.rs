//! One node, one service, one pod behind a veth, a client outside: bytes of the kernel's own stacks.
