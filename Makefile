# One line a verb. Each says what it does while it works; ARGS go to the program that it runs.
.PHONY: setup build demo test lint bench soak mutants clean
setup: ; @scripts/setup
build: setup ; @scripts/build
demo: build ; @exec target/release/pgrenga demo $(ARGS)
test: setup ; @scripts/build --all-targets && scripts/test $(ARGS)
lint: setup ; @scripts/lint
bench: build ; @scripts/bench $(ARGS)
soak: build ; @scripts/soak $(ARGS)
mutants: setup ; @scripts/mutants $(ARGS)
clean: ; @cargo clean && cargo clean --manifest-path extension/Cargo.toml
