#!/bin/bash
# make.sh OLD_CHECKOUT PYTHON: write the folders beside this file again, with the code of commit 68a5ef6.
#
# OLD_CHECKOUT is a clone at that commit, PYTHON an interpreter with its requirements. See README.md.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
OLD=$(cd "$1" && pwd); PYTHON=$2
PLACE=$(mktemp -d); trap 'rm -rf "$PLACE"' EXIT
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 NO_ALBUMENTATIONS_UPDATE=1 PYTHONPATH="$OLD"
cd "$PLACE"
cat > crl <<END
#!$PYTHON -P
import sys
sys.path.insert(0, "$HERE")
import tiny_net
from apps.cli import main
sys.argv[0] = "crl"
sys.exit(main())
END
chmod +x crl
PATH="$PLACE:$PATH"

"$PYTHON" -P - <<'END'
from pathlib import Path
from agecls.lookalike import write_lookalike_adience
from finegrained.lookalike import write_lookalike_cub
write_lookalike_adience(Path("faces"), users=10, images_per_subject=2, image_size=16)
write_lookalike_cub(Path("birds"), classes=3, per_class=16, image_size=32)
END

NET="--model.backbone crl_test_tiny_resnet --model.weights none --model.image_size 32 --model.resize_ratio 1
  --train.batch_size 8 --run.workers 0 --run.cache none --run.precision float32 --device cpu"
AGE="--data.root faces $NET --train.epochs 8 --train.lr 0.02 --train.augment flip"
FINE="--data.root birds --data.subset --data.val_share 0.2 $NET --train.epochs 6 --train.lr 0.05 --train.warmup_epochs 0"
CRL="--loss.name crl --loss.alpha 1 --loss.beta 0.5"

crl age cv $AGE --run.dir age_cv_cel
crl age cv $AGE $CRL --run.dir age_cv_crl
crl age study $AGE --cell train --losses crl:alpha=1 --no-controls --seeds 2 --run.dir age_study
crl fine study $FINE --losses crl:alpha=1 --no-controls --seeds 2 --run.dir fine_study
crl general study --data.name digits --data.train_fraction 0.2 --network.name logistic --train.epochs 2 \
  --run.precision float32 --run.compile off --run.together 2 --device cpu --losses crl --no-controls --seeds 2 --run.dir general_study
crl general train --data.name digits --data.train_fraction 0.2 --network.name logistic --train.epochs 2 \
  --run.precision float32 --run.compile off --device cpu --loss crl:alpha=1 --run.dir general_run
crl export age_cv_crl --fold 0 --title age
crl export fine_study/cells/crl-alpha1-beta1/seed-0 --title fine
mkdir comparisons
crl age compare age_cv_cel age_cv_crl --no-pictures --resamples 1000 --out comparisons/age
crl age compare age_study/cells/cel/seed-0,age_study/cells/cel/seed-1 \
  age_study/cells/crl-alpha1-beta1/seed-0,age_study/cells/crl-alpha1-beta1/seed-1 --no-pictures --resamples 1000 --out comparisons/age_seeds
crl fine compare fine_study/cells/cel/seed-0 fine_study/cells/crl-alpha1-beta1/seed-0 --no-pictures --resamples 1000 --out comparisons/fine
crl fine compare fine_study/cells/cel/seed-0,fine_study/cells/cel/seed-1 \
  fine_study/cells/crl-alpha1-beta1/seed-0,fine_study/cells/crl-alpha1-beta1/seed-1 --no-pictures --resamples 1000 --out comparisons/fine_seeds

# The same run twice: to its end, for what it should come to, and stopped in the middle.
stopped() {  # stopped FOLDER WORDS...: SIGTERM after the second epoch
  folder=$1; shift
  "$PYTHON" - "$@" --run.dir "$folder" <<'END'
import signal, subprocess, sys
run = subprocess.Popen(["crl", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
for line in run.stdout:
    if line.startswith("epoch 2/6"):
        break
run.send_signal(signal.SIGTERM)
run.stdout.read()
assert run.wait() == 130, run.returncode
END
}
mkdir ends
for kind in age fine; do
  if [ $kind = age ]; then WORDS="age train $AGE $CRL --train.ema 0.5"; else WORDS="fine train $FINE $CRL --train.select best"; fi
  crl $WORDS --train.epochs 6 --run.dir ${kind}_unfinished
  mkdir ends/$kind; cp ${kind}_unfinished/{predictions.parquet,metrics.jsonl} ends/$kind
  rm -r ${kind}_unfinished
  stopped ${kind}_unfinished $WORDS --train.epochs 6
  # One that the disk keeps small: the newest checkpoint alone.
  rm -f ${kind}_unfinished/checkpoints/previous.ckpt
done

"$PYTHON" - <<'END'
import zipfile
from pathlib import Path
with zipfile.ZipFile("images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    for file in sorted([*Path("faces").rglob("*"), *Path("birds").rglob("*")]):
        if file.is_file():
            archive.write(file)
END

# Keep what is read: no figures, locks or checkpoints of finished runs, and one model of each kind.
find . \( -name '*.png' -o -name .lock -o -name '*.lock' \) -delete
for run in age_cv_cel age_cv_crl age_study fine_study general_study general_run; do find $run -path '*/checkpoints*' -delete; done
KEPT=cells/crl-alpha1-beta1/seed-0
find age_cv_cel age_study age_cv_crl/fold[1-4] -name 'model*.safetensors' ! -path "*/$KEPT/*" -delete
find fine_study \( -name model-best.safetensors -o -name model-last.safetensors \) ! -path "*/$KEPT/*" -delete
find . -type d -empty -delete
grep -rlZI --exclude=crl -e "$PLACE" . | xargs -0r sed -i "s#$PLACE#@HERE@#g"
if grep -rla --exclude=crl -e "$PLACE" -e "$OLD" -e "$HOME" .; then echo "these name a folder of this machine"; exit 1; fi
for name in age_cv_cel age_cv_crl age_study fine_study general_study general_run age_unfinished fine_unfinished comparisons ends images.zip; do
  rm -rf "$HERE/$name"; cp -r $name "$HERE/"
done
du -sb "$HERE"
