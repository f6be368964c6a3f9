// bb_storage as the one address that clients talk to: CAS and action cache in memory, executions passed on.
// The names in std.extVar are environment variables.
local inMemory(blockSizeBytes) = {
  'local': {
    keyLocationMapInMemory: { entries: 64 * 1024 },
    keyLocationMapMaximumGetAttempts: 8,
    keyLocationMapMaximumPutAttempts: 32,
    oldBlocks: 2,
    currentBlocks: 6,
    newBlocks: 1,
    blocksInMemory: { blockSizeBytes: blockSizeBytes },
  },
};
local tls = if std.extVar('TLS_CERTIFICATE') == '' then {} else {
  tls: {
    serverKeyPair: {
      files: {
        certificatePath: std.extVar('TLS_CERTIFICATE'),
        privateKeyPath: std.extVar('TLS_KEY'),
        refreshInterval: '3600s',
      },
    },
  },
};
{
  grpcServers: [
    { listenAddresses: [std.extVar('CLIENTS')], authenticationPolicy: { allow: {} } } + tls,
    // Its own workers and scheduler come this way.
    { listenPaths: [std.extVar('STORAGE')], authenticationPolicy: { allow: {} } },
  ],
  schedulers: { '': { endpoint: { address: 'unix://' + std.extVar('SCHEDULER') } } },
  maximumMessageSizeBytes: 4 * 1024 * 1024,
  contentAddressableStorage: {
    backend: inMemory(32 * 1024 * 1024),
    getAuthorizer: { allow: {} },
    putAuthorizer: { allow: {} },
    findMissingAuthorizer: { allow: {} },
  },
  actionCache: {
    backend: {
      completenessChecking: { backend: inMemory(1024 * 1024), maximumTotalTreeSizeBytes: 64 * 1024 * 1024 },
    },
    getAuthorizer: { allow: {} },
    putAuthorizer: { allow: {} },
  },
  executeAuthorizer: { allow: {} },
}
