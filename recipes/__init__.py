"""The recipes that ship with lia-adapter, as TOML."""
