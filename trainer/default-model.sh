#!/bin/sh
# Train the model that the package ships, from the corpora its card names.
# Usage: trainer/default-model.sh BIN DATA VECTORS   (make default-model DATA=... VECTORS=...)
#   BIN      where nertrainer is
#   DATA     a folder with btc/{a,b,e,f,g,h}.txt, wikigold/all.txt, wnut17/{train,dev}.txt, as `nertrainer fetch` makes
#   VECTORS  glove.6B.100d.txt
set -eu
bin=$1 data=$2 vectors=$3
[ -d "$data/btc" ] && [ -f "$vectors" ] || {
  echo "default-model: give DATA=, a folder that \`nertrainer fetch btc wikigold wnut17\` filled, and VECTORS=" >&2
  exit 2
}
work=build/default-model
mkdir -p "$work"
# The last 296 sentences of wikigold are its dev part.
awk -v RS= -v ORS='\n\n' '!/^-DOCSTART-/ && ++n <= 1400' "$data/wikigold/all.txt" >"$work/wikigold-train.txt"
awk -v RS= -v ORS='\n\n' '!/^-DOCSTART-/ && ++n > 1400' "$data/wikigold/all.txt" >"$work/wikigold-dev.txt"
if [ -e "$work/run/config.toml" ]; then
  exec "$bin/nertrainer" train --resume "$work/run"
fi
exec "$bin/nertrainer" train --run "$work/run" --output "$work/en" \
  --train examples/corpus/train.conll --train examples/corpus/train.conll --train examples/corpus/extra.conll \
  --train "$work/wikigold-train.txt" --train "$data/wnut17/train.txt" --train "$data/btc/a.txt" \
  --train "$data/btc/b.txt" --train "$data/btc/e.txt" --train "$data/btc/f.txt" --train "$data/btc/g.txt" \
  --dev examples/corpus/dev.conll --dev "$work/wikigold-dev.txt" --dev "$data/wnut17/dev.txt" --dev "$data/btc/h.txt" \
  --labels person=PER,location=LOC,corporation=ORG,group=ORG,product=,creative-work= \
  --gazetteer examples/gazetteer.tsv --recase 0.1 \
  --vectors "$vectors" --word-rows 60000 --min-freq 2 --batch 16 --lr 1.5e-3 --word-lr 5e-4 --epochs 16
