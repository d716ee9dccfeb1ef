#!/bin/sh
# One of three Redis (`node.sh redis`), or the Sentinel beside it (`node.sh sentinel`).
#
#   SELF            HOST:PORT:SENTINEL_PORT of this one
#   NODES           the same of all three, in the same order everywhere
#   REDIS_PASSWORD  of Redis and Sentinels
#   DATA            folder that outlives the process
#
# Who is the master is asked of all Sentinels that answer, and of what this node's Sentinel has written
# down; what was decided last holds, by its epoch. So a node that slept through a failover can't win the
# others back to what it remembers when all of them start at once. On the very first start it is the
# first of NODES.
set -eu
umask 077

name=learnback
quorum=2
server=${REDIS_SERVER:-valkey-server}
cli=${REDIS_CLI:-valkey-cli}
known=$DATA/sentinel.conf

host_of() { echo "${1%%:*}"; }
port_of() { rest=${1#*:}; echo "${rest%%:*}"; }
sentinel_of() { echo "${1##*:}"; }

# Lines of epoch, host and port: what each Sentinel says, and what is written down here.
opinions() {
  for node in $NODES; do
    REDISCLI_AUTH=$REDIS_PASSWORD timeout 2 "$cli" -h "$(host_of "$node")" \
      -p "$(sentinel_of "$node")" --raw sentinel master "$name" 2> /dev/null |
      awk 'NR % 2 { key = $0; next } { told[key] = $0 }
           END { if ("ip" in told) print told["config-epoch"], told["ip"], told["port"] }'
  done
  if [ -f "$known" ]; then
    awk '$2 == "monitor" { host = $4; port = $5 } $2 == "config-epoch" { epoch = $4 }
         END { if (host) print epoch + 0, host, port }' "$known"
  fi
}

find_master() {
  latest=$(opinions | sort -rn | head -n 1)
  if [ -n "$latest" ]; then
    echo "${latest#* }"
  else
    first=${NODES%% *}
    echo "$(host_of "$first") $(port_of "$first")"
  fi
}

run_redis() {
  master=$(find_master)
  conf=$(mktemp)
  cat > "$conf" <<END
port $(port_of "$SELF")
dir $DATA
appendonly yes
appendfsync always
save ""
maxmemory ${MAXMEMORY:-400mb}
maxmemory-policy noeviction
requirepass $REDIS_PASSWORD
masterauth $REDIS_PASSWORD
replica-announce-ip $(host_of "$SELF")
replica-announce-port $(port_of "$SELF")
# A master that was cut off from both others takes nothing that would be lost with it.
min-replicas-to-write 1
min-replicas-max-lag 10
END
  if [ "$master" != "$(host_of "$SELF") $(port_of "$SELF")" ]; then
    echo "replicaof $master" >> "$conf"
  fi
  exec "$server" "$conf"
}

run_sentinel() {
  if [ ! -f "$known" ]; then
    master=$(find_master)
    cat > "$known.new" <<END
port $(sentinel_of "$SELF")
dir $DATA
requirepass $REDIS_PASSWORD
sentinel sentinel-pass $REDIS_PASSWORD
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $(host_of "$SELF")
sentinel announce-port $(sentinel_of "$SELF")
sentinel monitor $name $master $quorum
sentinel auth-pass $name $REDIS_PASSWORD
sentinel down-after-milliseconds $name ${DOWN_AFTER_MS:-5000}
sentinel failover-timeout $name 30000
sentinel parallel-syncs $name 1
END
    mv "$known.new" "$known"
  fi
  exec "$server" "$known" --sentinel
}

case ${1:-} in
  redis) run_redis ;;
  sentinel) run_sentinel ;;
  *) echo "usage: node.sh redis|sentinel" >&2; exit 2 ;;
esac
