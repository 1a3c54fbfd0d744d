declare module 'fs-native-extensions' {
  const locks: {
    /** Takes an exclusive lock that the operating system frees when the process ends; false when it is held. */
    tryLock(fd: number): boolean
  }
  export default locks
}
