"""Many runs: what a specification asks for, where they lie, and the engines that do them."""
