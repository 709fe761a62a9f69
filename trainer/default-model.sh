#!/bin/sh
# Train the model that the package ships, from the corpora its card names: three teachers, then the one that learns
# from them and from the gold, small enough to ship.
# Usage: trainer/default-model.sh BIN DATA "VECTORS..."   (make default-model DATA=... VECTORS="... ...")
#   BIN      where nertrainer is
#   DATA     a folder with btc/{a,b,e,f,g,h}.txt, wikigold/all.txt, wnut17/{train,dev}.txt, as `nertrainer fetch` makes
#   VECTORS  glove.6B.100d.txt, and the vectors of spaCy's en_core_web_md as text
set -eu
bin=$1 data=$2 vectors=$3
[ -d "$data/btc" ] && [ -n "$vectors" ] || {
  echo "default-model: give DATA=, a folder that \`nertrainer fetch btc wikigold wnut17\` filled, and VECTORS=" >&2
  exit 2
}
work=build/default-model
mkdir -p "$work"
# The last 296 sentences of wikigold are its dev part.
awk -v RS= -v ORS='\n\n' '!/^-DOCSTART-/ && ++n <= 1400' "$data/wikigold/all.txt" >"$work/wikigold-train.txt"
awk -v RS= -v ORS='\n\n' '!/^-DOCSTART-/ && ++n > 1400' "$data/wikigold/all.txt" >"$work/wikigold-dev.txt"

# fit RUN OPTION...: a run in $work/RUN, gone on with where it was broken off
fit() {
  run=$work/$1
  shift
  if [ -e "$run/config.toml" ]; then
    "$bin/nertrainer" train --resume "$run"
  else
    for file in $vectors; do set -- "$@" --vectors "$file"; done
    "$bin/nertrainer" train --run "$run" \
      --train examples/corpus/train.conll --train examples/corpus/train.conll --train "$work/wikigold-train.txt" \
      --train "$data/wnut17/train.txt" --train "$data/btc/a.txt" --train "$data/btc/b.txt" \
      --train "$data/btc/e.txt" --train "$data/btc/f.txt" --train "$data/btc/g.txt" \
      --dev examples/corpus/dev.conll --dev "$work/wikigold-dev.txt" --dev "$data/wnut17/dev.txt" \
      --dev "$data/btc/h.txt" \
      --labels person=PER,location=LOC,corporation=ORG,group=ORG,product=,creative-work= \
      --min-freq 2 --vector-size 160 "$@"
  fi
  [ -e "$run/result.json" ] || {
    echo "default-model: $run was stopped before its end; run this again to go on" >&2
    exit 1
  }
}

fit teachers --seeds 2 --epochs 12
fit teacher-3 --seed 3 --epochs 12 --word-lr 2e-3
fit student --epochs 14 --word-rows 33000 --teacher-share 0.7 --output "$work/en" \
  --teacher "$work/teachers/seed-1/best.safetensors" --teacher "$work/teachers/seed-2/best.safetensors" \
  --teacher "$work/teacher-3/best.safetensors"
