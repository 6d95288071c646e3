// Prints the addresses of a name, one a line, as Node finds them: like the C library, or with "ares" by its own resolver, which does not search.
const dns = require('dns').promises;

async function find(name, how) {
  if (how !== 'ares') {
    return (await dns.lookup(name, { all: true })).map((one) => one.address);
  }
  const both = await Promise.allSettled([dns.resolve4(name), dns.resolve6(name)]);
  const found = both.flatMap((one) => one.value ?? []);
  if (found.length === 0) {
    throw both[0].reason;
  }
  return found;
}

find(process.argv[2], process.argv[3]).then(
  (addresses) => console.log(addresses.join('\n')),
  (error) => {
    console.error(error.message);
    process.exitCode = 1;
  },
);
