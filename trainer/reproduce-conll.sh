#!/bin/sh
# Train on CoNLL-2003 with five seeds, and without each part in turn to see what it is worth.
# Usage: trainer/reproduce-conll.sh BIN DATA VECTORS   (make reproduce-conll DATA=... VECTORS=...)
#   BIN      where nertrainer is
#   DATA     a folder with conll2003/train.txt and conll2003/dev.txt
#   VECTORS  glove.6B.100d.txt
set -eu
bin=$1 data=$2 vectors=$3
[ -f "$data/conll2003/train.txt" ] && [ -f "$vectors" ] || {
  echo "reproduce-conll: give DATA=, a folder with conll2003/{train,dev}.txt, and VECTORS=, glove.6B.100d.txt" >&2
  exit 2
}

# fit RUN OPTION...: a run in build/conll/RUN, gone on with where it was broken off
fit() {
  run=build/conll/$1
  shift
  if [ -e "$run/config.toml" ]; then
    "$bin/nertrainer" train --resume "$run"
  else
    "$bin/nertrainer" train --run "$run" --train "$data/conll2003/train.txt" --dev "$data/conll2003/dev.txt" \
      --patience 24 "$@"
  fi
  [ -e "$run/result.json" ] || {
    echo "reproduce-conll: $run was stopped before its end; run this again to go on" >&2
    exit 1
  }
}

fit seeds --vectors "$vectors" --seeds 5
fit softmax --vectors "$vectors" --loss softmax
fit no-chars --vectors "$vectors" --char-filters 0
fit no-vectors
