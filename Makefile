PY := .venv/bin/python
PROTOS := $(wildcard protos/lighttts/v1/*.proto)

lighttts/.made: $(PROTOS)
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)
	touch $@
