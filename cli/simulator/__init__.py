"""The services in one process under virtual time: a clock that is advanced instead of waited for."""
