# Every target is a command of src/alignlab/commands.py, which needs nothing but Python 3.11-3.13:
# where there is no make, `python src/alignlab/commands.py start` does the same.
# ARGS is handed on: make test ARGS="-k dpo", make start ARGS="--no-browser".

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && exit; done; echo python3)
RUN = @$(PYTHON) src/alignlab/commands.py

.PHONY: start lab book labs test bench lint lock
start: ; $(RUN) start $(ARGS)
lab:   ; $(RUN) lab $(ARGS)
book:  ; $(RUN) book $(ARGS)
labs:  ; $(RUN) labs $(if $(LAB),--lab $(LAB)) $(ARGS)
test:  ; $(RUN) test $(ARGS)
bench: ; $(RUN) bench $(ARGS)
lint:  ; $(RUN) lint $(ARGS)
lock:  ; $(RUN) lock $(ARGS)
