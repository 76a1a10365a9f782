# Sourced by scripts that run trainings on the digit scenes, some at a time,
# show how they get on, and continue where they were stopped.
#
# They set: work (folder of everything), logs (folder of the jobs' logs),
# cores, train_options (for --cfg-options), epochs (of the training that
# counts them).

me=$(basename "$0" .sh)
say() { printf '[%s] %s\n' "$me" "$*"; }
die() { printf '[%s] %s\n' "$me" "$*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p}' "$0"; }

# Children inherit the lock: what a killed script left running holds it.
lock_work_folder() {
  mkdir -p "$logs"
  exec 9>"$work/.lock"
  flock -n 9 || die "Another quickstart is at work in $work. Let it finish," \
    "or end it (fuser $work/.lock names its processes)."
}

# --- jobs: in the background, each with logs of its own ---------------------
declare -A pids=() # name of a running job -> its process

# start NAME COMMAND...
start() {
  "${@:2}" &
  pids[$1]=$!
}
# A job is a shell whose child is the command; it ends when that does. The
# lock is held until then.
end_jobs() {
  local pid
  for pid in "${pids[@]}"; do
    pkill -P "$pid" 2>/dev/null || kill "$pid" 2>/dev/null || true
  done
  wait 2>/dev/null || true
}
stop() {
  end_jobs
  say "stopped; run it again to continue"
  exit 130
}
trap stop INT TERM HUP
log_of() { ls -t "$logs"/*-"$1".log 2>/dev/null | head -n 1; }
fail() {
  end_jobs
  tail -n 15 "$(log_of "$1")" >&2
  die "'$1' failed. The whole log is $(log_of "$1"); after mending the cause," \
    "run this again: it continues here."
}

# progress NAME: one job's bar, from the last line that counts in its log.
progress() {
  local log line now end bar text
  local count='(Iter|Epoch)\((train|val|test)\) +(\[([0-9]+)\])?'
  count+='\[ *([0-9]+)/([0-9]+)\]'
  log=$(log_of "$1" || true)
  line=$(grep -E "$count" "$log" 2>/dev/null | tail -n 1 || true)
  if ! [[ $line =~ $count ]]; then
    printf '%-10s starts' "$1"
    return
  fi
  now=${BASH_REMATCH[5]} end=${BASH_REMATCH[6]}
  if [ "${BASH_REMATCH[1]}${BASH_REMATCH[2]}" = Epochtrain ]; then
    # Only the pre-training counts in epochs.
    now=$((now + (BASH_REMATCH[4] - 1) * end)) end=$((epochs * end))
  fi
  printf -v bar '%*s' $((10 * now / end)) ''
  printf -v text '%-10s [%-10s] %3d/%-3d' "$1" "${bar// /#}" "$now" "$end"
  [[ $log != *test-* ]] || text+=" tested"
  [[ ! $line =~ ' time: '([0-9.]{4}) ]] || text+=" ${BASH_REMATCH[1]} s"
  printf '%s' "$text"
}

# wait_until N: until at most N jobs run; shows how all get on. One line that
# moves on a terminal, a line each half minute in a file.
wait_until() {
  local name text ticks=0
  while [ ${#pids[@]} -gt "$1" ]; do
    sleep 1
    text=
    for name in "${!pids[@]}"; do
      if kill -0 "${pids[$name]}" 2>/dev/null; then
        text+="  $(progress "$name")"
        continue
      fi
      wait "${pids[$name]}" || fail "$name"
      [ ! -t 1 ] || printf '\r\e[K'
      say "    $name is done"
      unset "pids[$name]"
    done
    if [ -t 1 ]; then
      printf '\r%s\e[K' "$text"
    elif [ $((ticks++ % 30)) -eq 0 ]; then
      printf '%s\n' "$text"
    fi
  done
}
skip() { say "    done before (remove $1 to repeat it)"; }
last_checkpoint() {
  local name
  name=$(basename "$(cat "$1/last_checkpoint" 2>/dev/null || true)")
  [ -n "$name" ] && [ -f "$1/$name" ] && printf '%s' "$1/$name"
}

# Marks are set after a step has succeeded; half a step does not count.
# train_and_test NAME CONFIG
train_and_test() {
  local name=$1 dir=$work/${1,,} config=$2 checkpoint
  if ! [ -f "$dir/trained" ]; then
    python tools/train.py "$config" --work-dir "$dir" --resume auto \
      --cfg-options "${train_options[@]}" >"$logs/train-$name.log" 2>&1 ||
      return
    touch "$dir/trained"
  fi
  checkpoint=$(last_checkpoint "$dir") || return
  mkdir -p "$dir/test"
  python tools/test.py "$config" "$checkpoint" --work-dir "$dir/test" \
    --out "$dir/test/predictions.pkl" >"$logs/test-$name.log" 2>&1 || return
  touch "$dir/tested"
}
# train_soon NAME CONFIG: as soon as a core is free, unless it was done before.
train_soon() {
  if [ -f "$work/${1,,}/tested" ]; then
    skip "$work/${1,,}"
    return
  fi
  rm -f "$logs"/*-"$1".log
  start "$1" train_and_test "$1" "$2"
  wait_until $((cores > 1 ? 1 : 0))
}
