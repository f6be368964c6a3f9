// bb_worker in its plainest form: build directories on the disk, inputs hard-linked from a cache, no chroot.
local storage = { grpc: { address: 'unix://' + std.extVar('STORAGE') } };
{
  blobstore: { contentAddressableStorage: storage, actionCache: storage },
  maximumMessageSizeBytes: 4 * 1024 * 1024,
  scheduler: { address: 'unix://' + std.extVar('WORKERS') },
  buildDirectories: [{
    native: {
      buildDirectoryPath: std.extVar('DIRECTORY') + '/build',
      cacheDirectoryPath: std.extVar('DIRECTORY') + '/cache',
      maximumCacheFileCount: 10000,
      maximumCacheSizeBytes: 1024 * 1024 * 1024,
      cacheReplacementPolicy: 'LEAST_RECENTLY_USED',
    },
    runners: [{
      endpoint: { address: 'unix://' + std.extVar('DIRECTORY') + '/runner' },
      concurrency: 2,
      platform: { properties: [{ name: 'OSFamily', value: 'linux' }] },
      workerId: { worker: std.extVar('NAME') },
    }],
  }],
  filePool: { inMemory: {} },
  outputUploadConcurrency: 4,
  directoryCache: {
    maximumCount: 1000,
    maximumSizeBytes: 1024 * 1024,
    cacheReplacementPolicy: 'LEAST_RECENTLY_USED',
  },
}
