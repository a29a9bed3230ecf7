//! The systemd unit.

use super::Unit;

/// A unit that gives what the daemon needs and nothing else.
pub fn systemd(wanted: &Unit) -> String {
    format!(
        "\
# Made by `bascule render systemd`. Save it as /etc/systemd/system/bascule.service.
[Unit]
Description=Bascule: owns the cluster's virtual IPs
After=network.target
# Started again for ever: a node that gives up is one owner fewer.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
# A loop that does not turn is not petted. Its fence closes by itself long before.
WatchdogSec=5s
ExecStart={binary} run --config {config}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1s
# Handing over takes well under 3 s, serving stragglers the drainTime (1 s by default) on top.
TimeoutStopSec=30s
KillMode=mixed

# Root because bpffs and the admin socket are root's, with these capabilities and no other. NET_ADMIN: addresses and tc; NET_RAW:
# adverts, ARP, NDP; BPF, PERFMON: the fence; SYS_NICE: the real-time thread, which asks for SCHED_FIFO by itself. The scheduling
# policy is not set here: it would make every thread real-time.
User=root
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON CAP_SYS_NICE
AmbientCapabilities=
NoNewPrivileges=yes
RestrictRealtime=no
# Maps count against this limit before Linux 5.11; after that it is what mlockall needs.
LimitMEMLOCK=infinity
OOMScoreAdjust=-900

RuntimeDirectory=bascule
RuntimeDirectoryMode=0755
UMask=0077
ProtectSystem=strict
# Not ProtectKernelTunables: it makes /sys read-only, and with it the bpffs that holds the pins.
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectHome=yes
PrivateTmp=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
RestrictNamespaces=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service bpf
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
",
        binary = wanted.binary.display(),
        config = wanted.config.display(),
    )
}
